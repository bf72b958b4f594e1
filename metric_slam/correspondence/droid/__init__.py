"""Correspondence by the DROID-SLAM network: encoders, correlation, recurrent update; takes the weights of droid.pth."""
