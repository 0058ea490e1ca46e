// What kernels, C++ and TypeScript have to agree on, written once: scripts/generate.mjs makes of every constant here
// one for C++ (build/generated/layout.h: TABLE_MAP is kTableMap) and one for TypeScript (lib/native/layouts.ts:
// layout.tableMap), and of every struct its fields for TypeScript (recordLayouts).

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
const TABLE_GIVEN = 7u; // with GIVEN 1: where bits start that the processor drew (see drop.wgsl)
const TABLE_WORDS = 8u;

// The record of a segment begins with these words. Then come the sources, one word an input (start in units of 16
// bytes, and the code of the dtype from bit SOURCE_DTYPE on), then a hash of name and model (u64) an input, then the
// coefficients.
const RECORD_ELEMENTS = 0u;
const RECORD_FIRST_BLOCK = 1u; // in the tile
const RECORD_FLAT = 2u; // u64: place of the first element in the tensor
const RECORD_OUTPUT = 4u; // where it is stored, in units of 16 bytes
const RECORD_SEGMENT = 5u; // its number, in whose COUNT_WORDS its elements are counted
const RECORD_SOURCES = 6u;
const RECORD_INPUT_WORDS = 3u; // a source and a hash
const SOURCE_DTYPE = 28u;

// What kernels that store elements count in each segment: NaN and Inf; and, where a kernel changes its first input,
// elements that differ from it as stored, and those that the rounding gave back the value that they had.
const COUNT_NON_FINITE = 0u;
const COUNT_CHANGED = 1u;
const COUNT_SWALLOWED = 2u;
const COUNT_WORDS = 3u;

// Codes of the types that kernels load; they store the first three.
const DTYPE_F32 = 0u;
const DTYPE_F16 = 1u;
const DTYPE_BF16 = 2u;
const DTYPE_F64 = 3u;
const DTYPE_F8_E4M3 = 4u;
const DTYPE_F8_E5M2 = 5u;
const DTYPE_MIXED = 15u; // as IN_DTYPE: inputs differ, and their sources say how they are stored

// How weighted deltas become one (see consensus.wgsl).
const CONSENSUS_SUM = 0u;
const CONSENSUS_MERGEKIT = 1u;
const CONSENSUS_TOTAL = 2u;
const CONSENSUS_FREQUENCY = 3u;
const CONSENSUS_REFERENCE = 4u;

// Models of an election whose sets that can agree are looked up in a table; of more, their weights are added up.
const ELECTION_TABLE = 8u;

// Coefficients of the CPU step `ties`; from TRIM_WEIGHTS on a weight a model, a density a model, and maybe a gamma a
// model.
const TRIM_LAMBDA = 0u;
const TRIM_NORMALIZE = 1u;
const TRIM_CONSENSUS = 2u;
const TRIM_RESCALE = 3u;
const TRIM_WEIGHTS = 4u;

// Words a block of the kernels select_sample (a model) and select (a bracket).
const SAMPLE_WORDS = 32u;
const SELECT_WORDS = 128u;

// Weights of models on the device are [in, out], in panels of so many columns (see packed.wgsl).
const PANEL_COLUMNS = 64u;

// The functions between the matrices of an MLP (see activations.wgsl).
const ACTIVATION_SILU = 0u;
const ACTIVATION_GELU = 1u;
const ACTIVATION_GELU_TANH = 2u;
const ACTIVATION_QUICK_GELU = 3u;
const ACTIVATION_RELU = 4u;

// Words of a token of a pass.
const TOKEN_ID = 0u;
const TOKEN_START = 1u; // first row of its sequence in the cache
const TOKEN_ROW = 2u; // its own row there
const TOKEN_TARGET = 3u; // the id to be predicted
const TOKEN_WORDS = 4u;
const NO_TARGET = 0xffffffffu;

// How the next id of a token is drawn.
struct Sampling {
  temperature: f32, // what logits are divided by; 0: the likeliest id
  top_k: u32, // only so many of the likeliest; 0: all
  top_p: f32, // only the likeliest whose probabilities together reach this
  step: u32, // `step`, `sample` and `sequence` tell numbers of one seed apart
  sample: u32,
  sequence: u32,
  seed_low: u32,
  seed_high: u32,
}

// What the loss of a token is made of: log(sum) + largest - own.
struct Loss {
  sum: f32, // of exp(logit - largest)
  largest: f32,
  own: f32, // logit of the target
}

// What the loss of a token with a teacher is made of: (share of the target + share of the teacher) log(sum) - own, and
// of a divergence less share of the teacher * log(teacher_sum).
struct TaughtLoss {
  sum: f32, // of exp(logit - the largest)
  teacher_sum: f32, // the same of the teacher
  own: f32, // mean of (logit - the largest) by the target and the teacher's probabilities, times their shares
}

// Rows of words that kernel column_stats leaves of a group, each as wide as what is measured.
const COLUMN_SHIFT = 0u; // the first value of a column
const COLUMN_SUM = 1u; // of v - shift
const COLUMN_SPREAD = 2u; // sum of (v - shift)^2
const COLUMN_ABSOLUTE = 3u; // sum of |v|
const COLUMN_SQUARES = 4u; // sum of v^2
const COLUMN_ABOVE = 5u; // how many |v| are above tau
const COLUMN_WORDS = 6u;

// How a block moves a row a of the residual stream by d.
struct ResidualDelta {
  aa: f32, // a . a
  ad: f32, // a . d
  dd: f32, // d . d
}

// Sums over the weights of an input or an output of a linear.
struct WeightSums {
  absolute: f32, // of |w|
  squares: f32, // of w^2
}
