"""What leaves the house: published folders of weights, and detectors as ONNX files."""
