"""The commands: what each shows or does, without the command line's own business."""
