"""One run from data set to results folder, with checkpoints and progress; called by the command line."""
