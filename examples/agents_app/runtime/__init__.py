"""What starts and runs the workflows."""
