"""Training on several processes: applied to a model from outside, in a stated order; the model's own code stays untouched."""
