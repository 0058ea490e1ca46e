// What kernels, C++ and TypeScript have to agree on, written once: scripts/generate.mjs makes of every constant here
// one for C++ (build/generated/layout.h: TABLE_MAP is kTableMap) and one for TypeScript (lib/native/layouts.ts:
// layout.tableMap).

// Elements of a block: partial results, random numbers and maps of segments count blocks from a tensor's first element.
const BLOCK = 2048u;

// The parameter table of a tile begins with these words. Then comes the number of its segment for every block, then a
// record for every segment, then what parts of tensors have for their lines (see lines.wgsl).
const TABLE_ZERO = 0u; // 0, which no compiler sees
const TABLE_BLOCKS = 1u; // how many there are
const TABLE_MAP = 2u; // where the segments of blocks start
const TABLE_RECORDS = 3u; // where the records start
const TABLE_RECORD_WORDS = 4u; // words of a record
const TABLE_SEED = 5u; // u64
const TABLE_WORDS = 8u;

// The record of a segment begins with these words. Then come the sources, one word an input (start in units of 16 bytes,
// and the code of the dtype from bit SOURCE_DTYPE on), then a hash of name and model (u64) an input, then the coefficients.
const RECORD_ELEMENTS = 0u;
const RECORD_FIRST_BLOCK = 1u; // in the tile
const RECORD_FLAT = 2u; // u64: place of the first element in the tensor
const RECORD_OUTPUT = 4u; // where it is stored, in units of 16 bytes
const RECORD_SEGMENT = 5u; // its number, where NaN and Inf are counted
const RECORD_SOURCES = 6u;
const RECORD_INPUT_WORDS = 3u; // a source and a hash
const SOURCE_DTYPE = 28u;
const DTYPE_MIXED = 15u; // as IN_DTYPE: inputs differ, and their sources say how they are stored

// How weighted deltas become one (see consensus.wgsl).
const CONSENSUS_SUM = 0u;
const CONSENSUS_MERGEKIT = 1u;
const CONSENSUS_TOTAL = 2u;
const CONSENSUS_FREQUENCY = 3u;
const CONSENSUS_REFERENCE = 4u;

// Models of an election whose sets that can agree are looked up in a table; of more, their weights are added up.
const ELECTION_TABLE = 8u;

// Coefficients of the CPU step `ties`; from TRIM_WEIGHTS on a weight a model, a density a model, and maybe a gamma a model.
const TRIM_LAMBDA = 0u;
const TRIM_NORMALIZE = 1u;
const TRIM_CONSENSUS = 2u;
const TRIM_RESCALE = 3u;
const TRIM_WEIGHTS = 4u;

// Words a block of the kernels select_sample (a model) and select (a bracket).
const SAMPLE_WORDS = 32u;
const SELECT_WORDS = 128u;
