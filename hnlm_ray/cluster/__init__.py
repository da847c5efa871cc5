"""Running on somebody's cluster: what is packaged, how it is submitted and followed."""
