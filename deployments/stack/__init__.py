"""The local stack: Prefect, MLflow, HAProxy, a worker for all deployments, and the release servers."""
