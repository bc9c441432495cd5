"""What the operator's commands do, without the command line."""
