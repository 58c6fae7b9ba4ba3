"""Evaluate a checkpoint, a pretrained model or a file of embeddings.

Usage:
    python eval.py ckpt_path=outputs/mad/<run>/checkpoints/last.ckpt
    python eval.py data=embeddings data.path=pairs.npz gap_reducer=posthoc gap_reducer.fit_split=test
"""

from i0t.cli import evaluate

if __name__ == "__main__":
    evaluate()
