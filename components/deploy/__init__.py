"""Deploy: put a registered version to work, ask it what is known, and go back if it answers wrongly."""

from components.deploy.deploy import Deployed, deploy, make_deployer
from components.deploy.deployer import Check, Deployer, Deployment, Release
from components.deploy.inference_service import InferenceServiceDeployer

__all__ = [
    "Check",
    "Deployed",
    "Deployer",
    "Deployment",
    "InferenceServiceDeployer",
    "Release",
    "deploy",
    "make_deployer",
]
