// What an invocation sums up of a product with rows of X: COLUMNS vectors of four lines. What includes it has `Row`.
alias Sums = array<vec4f, 4u * COLUMNS>;

// Adds the products of a number of each line with a row.
fn add_products(sums: ptr<function, Sums>, four: vec4f, row: Row) {
  for (var c = 0u; c < COLUMNS; c++) {
    let v = of_row(row, c);
    (*sums)[c] += four.x * v;
    (*sums)[COLUMNS + c] += four.y * v;
    (*sums)[2u * COLUMNS + c] += four.z * v;
    (*sums)[3u * COLUMNS + c] += four.w * v;
  }
}
