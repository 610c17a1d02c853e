"""Networks that see images and are trained once: autoencoder, classifier, and the cache that keeps them.

Not here: score networks (`ndsm.networks`) and what is measured with the classifier (`ndsm.metrics`).
"""

import ndsm.vision.latents  # noqa: F401  # registers the data source mnist-latent
