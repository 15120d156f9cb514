"""Classes with names: how likely each is, and whether such probabilities are right. Clouds that overlap, made up."""

from typing import Any

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import jills

SPECIES = np.array(["Adelie", "Chinstrap", "Gentoo"])


def main(count: int = 400, **parameters: Any) -> tuple[float, float, float]:
    """Log loss and accuracy of rows held out, and the accuracy that the probabilities themselves promise."""
    centers = np.array([[-2.0, 0.0], [0.0, 1.5], [2.0, 0.0]])
    inputs, numbers = make_blobs(count, centers=centers, cluster_std=1.2, random_state=0)[:2]
    train, test, known, unknown = train_test_split(inputs, SPECIES[numbers], random_state=0)
    model = jills.estimators.NetworkClassifier(**{"hidden": (10,), "random_state": 0, **parameters}).fit(train, known)

    probabilities = model.predict_proba(test)
    loss = float(log_loss(unknown, probabilities, labels=model.classes_))
    accuracy = float(np.mean(model.predict(test) == unknown))
    promised = float(np.mean(np.max(probabilities, axis=1)))
    print(f"{len(test)} rows held out: log loss {loss:.3f}, accuracy {accuracy:.2f}, promised {promised:.2f}")
    for row in range(3):
        told = ", ".join(f"{name} {share:.2f}" for name, share in zip(model.classes_, probabilities[row], strict=True))
        print(f"  {told}; it was {unknown[row]}")
    return loss, accuracy, promised


if __name__ == "__main__":
    main()
