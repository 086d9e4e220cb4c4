"""Deploy: put a registered version to work, ask it what is known, and go back if it answers wrongly."""

from components.deploy.deployer import Deployer, Deployment, Release
from components.deploy.inference_service import InferenceServiceDeployer

__all__ = ["Deployer", "Deployment", "InferenceServiceDeployer", "Release"]
