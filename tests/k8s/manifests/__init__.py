"""Checks of the Kubernetes manifests: rendering, schemas, the operator's rules, Ray's translation, policy."""
