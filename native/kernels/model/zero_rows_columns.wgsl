// Puts zeros into some rows, or columns, of a matrix as a checkpoint stores it; an element an invocation. Two elements
// of a 16-bit type share a word, so it is changed as a whole.
struct Parameters { rows: u32, columns: u32, count: u32, by_column: u32 } // count: of the list
#include "layout.wgsl"
override DTYPE: u32; // F32, F16 or BF16
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> list: array<u32>;
@group(0) @binding(2) var<storage, read_write> matrix: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(workgroup_id) wid: vec3u,
        @builtin(num_workgroups) nwg: vec3u) {
  let item = wid.y + wid.z * nwg.y;
  if (item >= p.count || id.x >= select(p.columns, p.rows, p.by_column != 0u)) { return; }
  let row = select(list[item], id.x, p.by_column != 0u);
  let column = select(id.x, list[item], p.by_column != 0u);
  let i = row * p.columns + column;
  if (DTYPE == DTYPE_F32) {
    atomicStore(&matrix[i], 0u);
  } else {
    atomicAnd(&matrix[i / 2u], select(0xffff0000u, 0x0000ffffu, i % 2u == 1u));
  }
}
