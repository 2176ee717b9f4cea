"""One module per command of the `perception` program: files in, files out."""
