"""What a prediction is worth: the loss that training lowers and the metrics that tables show, per task."""
