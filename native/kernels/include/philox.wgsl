// Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator, so that the random number of an element depends
// on the seed, the tensor's name, the model and the element's index alone, never on tiles or devices.
// WGSL has no 64-bit product: the high word is put together from 16-bit halves.

fn mul_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let mid = ah * bl + ((al * bl) >> 16u);
  let mid2 = al * bh + (mid & 0xffffu);
  return ah * bh + (mid >> 16u) + (mid2 >> 16u);
}

fn philox(counter: vec4u, key: vec2u) -> vec4u {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    let h0 = mul_high(0xd2511f53u, c.x);
    let l0 = 0xd2511f53u * c.x;
    let h1 = mul_high(0xcd9e8d57u, c.z);
    let l1 = 0xcd9e8d57u * c.z;
    c = vec4u(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
    k += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}
