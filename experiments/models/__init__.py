"""Real pretrained models, with data that are made on the spot and scores that need no download.

``python -m experiments.models NAME -o FOLDER`` writes ``model.onnx``, ``calibration.npz``,
``held_out.npz`` and, where answers are no class indices, ``answers.json``; then it runs the model in
onnxruntime on the held-out data and prints its score.
"""
