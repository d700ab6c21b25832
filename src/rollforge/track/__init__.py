"""What came out of a run: experiments and recorders over one protocol, kept by MLflow or in plain files."""
