"""Dense matching of images on the 1/8 grid; odometry, loops and reconstruction call it through base.py."""
