"""How much of a file is read, and what its numbers may be: more is refused before it takes memory or time.

Each is several times what the largest file known here has. With them a refusal takes less than 5 seconds and
1 GiB, whatever a file says.
"""

TEXT_BYTES = 8 << 20  # a config, vocabulary or list; the longest is CLIP's tokenizer.json with 3.6 MB
LIST_BYTES = 256 << 20  # a list of pictures or of their prompts; a million of them take about 100 MB
HEADER_BYTES = 8 << 20  # the header of a .safetensors file; that of Stable Diffusion XL has 0.3 MB
PICKLE_BYTES = 16 << 20  # what a torch file has besides numbers; 0.3 MB in Stable Diffusion 2.1-base
PICKLE_STEPS = 1_000_000  # operations in it; 60,000 there
DIRECTORY_BYTES = 8 << 20  # the list of the members of a zip, about 100 bytes each
TENSORS = 50_000  # in a file; 1,300 in Stable Diffusion 2.1-base
NESTING = 8  # tables called "state_dict" in each other; 1 in what lightning writes
NAME = 1000  # letters of the name of a tensor; about 100 there
SIDES = 8  # dimensions of a tensor
SHARING = 4  # how many times the bytes of a file its tensors, or the parts of a TIFF, may have together

# Of pictures; PIL.Image.MAX_IMAGE_PIXELS besides, twice of which is the most that any may have.
RESULT_PIXELS = (
    1 << 34
)  # of a restored picture, 131,072 a side; a plan of more takes minutes, and fits nowhere
PIXEL_BYTES = 128 << 20  # unpacked: from here on a file has at least as many bytes as the next line asks
UNPACKED = 200  # bytes of pixels for each byte of a file; photographs stay below 20
BLOCK_BYTES = 16 << 20  # a profile, a text once unpacked; the longest profiles of printers have 4 MB
TEXTS_BYTES = 32 << 20  # all texts of a picture; a workflow of ComfyUI has 2 MB at most
XMP_BYTES = 1 << 20  # XMP is parsed, which takes some thirty times as much; 0.1 MB in edited photographs
TIFF_TAGS = 10_000  # of a page; about 100 in what cameras write
EXIF_BYTES = 1 << 20  # EXIF is taken apart value by value; 64 kB in JPEG, and a thumbnail has no more
TIFF_PARTS = 200_000  # strips and tiles of a page; as many as rows where software writes row by row
TIFF_NUMBERS = 300_000  # of a page beside the places of its parts; a palette for 16 bits has 196,608
SEGMENTS = 100_000  # of a JPEG; a few hundred in one that was scanned in many passes
SCANS = 100  # passes of a JPEG, of which a few bytes take as long as all of its pixels; 10 in most

SCHEDULE_STEPS = 100_000  # of a noise schedule; 1000 in Stable Diffusion
LEVELS = 16  # of a UNet or VAE; 4 there
LEVEL_LAYERS = 8  # in a level; 2 there
TEXT_LAYERS = 100  # in a text encoder; 23 there
TAGGER_LAYERS = 100  # in a stage or in the head of a tagger; 18 in RAM
WIDTH = 1 << 20  # channels, words of a vocabulary, positions: what one setting may say
ALPHA = 1e6  # of LoRA; 8 in the published checkpoint
TAGGER_SIDE = 4096  # pixels of what a tagger looks at; 384 in RAM
