"""Where the figures of a training run are kept: TensorBoard's files, or a tracker, which is imported only if named."""
