"""Random views of samples, in bulk on the device."""
