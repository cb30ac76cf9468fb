"""What generator and critic are trained by: losses, their networks, and the noise that they see."""

from ..networks.guidance import guided as guided
from .critic import critic_loss as critic_loss
from .csd import csd_loss as csd_loss
from .gan import adversarial_loss as adversarial_loss
from .gan import discriminator_loss as discriminator_loss
from .objective import NoisePredictor as NoisePredictor
from .objective import PerceptualLoss as PerceptualLoss
from .objective import binned as binned
from .pixels import data_loss as data_loss
from .pixels import tone_loss as tone_loss
from .tsm import tsm_loss as tsm_loss
from .vsd import normalised as normalised
from .vsd import vsd_loss as vsd_loss
