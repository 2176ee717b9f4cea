"""From a model folder or hub id to a checked backbone."""
