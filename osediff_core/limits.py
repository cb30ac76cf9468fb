"""How much of a file is read, and what its numbers may be: beyond that it is refused, before memory or time is spent.

Each is several times what the largest file known here has. With them a refusal takes less than 5 seconds and
1 GiB, whatever a file says.
"""

TEXT_BYTES = 16 << 20  # a config, vocabulary or list; the longest is CLIP's tokenizer.json with 3.6 MB
HEADER_BYTES = 16 << 20  # the header of a .safetensors file; that of Stable Diffusion XL has 0.3 MB
PICKLE_BYTES = 16 << 20  # what a torch file has besides numbers; 0.3 MB in Stable Diffusion 2.1-base
PICKLE_STEPS = 1_000_000  # operations in it; 60,000 there
DIRECTORY_BYTES = 16 << 20  # the list of the members of a zip, about 100 bytes each
TENSORS = 100_000  # in a file; 1,300 in Stable Diffusion 2.1-base
NESTING = 8  # tables called "state_dict" in each other; 1 in what lightning writes
SIDES = 8  # dimensions of a tensor
SHARING = 4  # how many times the bytes of a file its tensors may have together, because tensors share them

SCHEDULE_STEPS = 100_000  # of a noise schedule; 1000 in Stable Diffusion
LEVELS = 8  # of a UNet or VAE; 4 there
LAYERS = 100  # in a level, or in a text encoder; 2 and 23 there
WIDTH = 1 << 20  # channels, words of a vocabulary, positions: what one setting may say
ALPHA = 1e6  # of LoRA; 8 in the published checkpoint
TAGGER_SIDE = 4096  # pixels of what a tagger looks at; 384 in RAM
