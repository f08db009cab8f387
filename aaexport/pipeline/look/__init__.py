"""What can be seen of a model without judging it: its operators and costs, and where its heads attend."""
