"""Workers: processes beside the nodes that publish, or post webhooks."""
