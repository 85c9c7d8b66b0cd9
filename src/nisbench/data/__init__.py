"""From the publisher's archive to tensors: download, prepare (one module per format), split, block, read."""
