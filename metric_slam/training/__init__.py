"""Training of the correspondence network: losses and a differentiable bundle adjustment; no other folder imports it."""
