"""What runs in a forward pass: routings and the steps that they are made of."""
