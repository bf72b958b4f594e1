"""The DROID-SLAM network as a correspondence model, with the weights of droid.pth; only the factory imports it."""
