"""Linear and nearest-neighbour probes on frozen features."""
