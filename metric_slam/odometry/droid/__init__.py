"""Odometry around a recurrent network, as DROID-SLAM works; called by slam through the same protocol."""
