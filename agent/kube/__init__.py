"""The Kubernetes side: one small client, two watches, reports on the Node."""
