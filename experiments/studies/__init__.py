"""What is measured besides the claims, one script each: the cost of a step, many networks, minibatches, robustness."""
