"""What GPUs and TPUs compute in their own way, and the choice between these ways."""
