"""What learning the correspondence network needs beside the network: losses and a bundle adjustment to learn through.

Nothing that runs the SLAM imports this.
"""
