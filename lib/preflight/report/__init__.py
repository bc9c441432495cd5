"""What an operator or a program reads of a build."""
