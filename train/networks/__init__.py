"""One UNet and one VAE for generator, teacher and critic, and what of them is trained."""

from .backbone import Backbone as Backbone
