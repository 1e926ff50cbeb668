"""How much one request may claim, whichever way it came."""

#: TF Serving inflates a gzip request up to this.
MAX_INFLATED_BYTES = 100 * 2**20
#: Of one tensor: a few bytes can declare any shape, and must not claim the memory.
MAX_ELEMENTS = 2**28
#: Dimensions that a NumPy array of any version can have.
MAX_RANK = 32
