// What passes of programs with axes are built from, beside kernels.h: a block does one tile of an array, of a power of
// two of places. A place's number has a few bits for the index along each axis, the last axis' lowest.

// The bits of a table's numbers.
#ifdef __CUDACC__
__device__ __forceinline__ double number(int64 bits) { return __longlong_as_double(bits); }
#else
__device__ __forceinline__ double number(int64 bits) { double x; __builtin_memcpy(&x, &bits, 8); return x; }
#endif

// The index in the array: `tile` tiles of 2**log come before, in its own the index is the low bits of `place`.
__device__ __forceinline__ int64 index_of(int64 tile, int log, int place) {
    return (tile << log) + (place & ((1 << log) - 1));
}

// Bits [low, low + length) of a place: what has been put together along an axis lies where they are 0.
struct Run { int low, length; };
__device__ __forceinline__ int with_zeros(int k, Run run) {
    return k >> run.low << (run.low + run.length) | (k & ((1 << run.low) - 1));
}
// The k-th of the places with zeros in both runs, of which the first is the higher one.
__device__ __forceinline__ int place_of(int k, Run high, Run low) { return with_zeros(with_zeros(k, low), high); }

// Puts together what lies in the room along one run, four by four: an order that depends on nothing else. `left` are
// the places to go on with, those that have zeros in the run `done`. All threads of the block must come here.
template <bool LARGEST> __device__ inline void join_along(double *room, int left, Run run, Run done) {
    for (int bits = run.length; bits > 0;) {
        const int four = bits > 1 ? 2 : 1;
        bits -= four;
        left >>= four;
        const Run gone = {run.low + bits, run.length - bits};
        for (int k = threadIdx.x; k < left; k += blockDim.x) {
            double *const at = room + place_of(k, done, gone);
            double x = at[0];
            for (int j = 1; j < 1 << four; ++j) {
                const double y = at[j << gone.low];
                x = LARGEST ? maximum(x, y) : x + y;
            }
            at[0] = x;
        }
        __syncthreads();
    }
}
template <bool LARGEST> __device__ inline void join(double *room, int places, Run high, Run low) {
    __syncthreads();
    join_along<LARGEST>(room, places, high, Run{0, 0});
    join_along<LARGEST>(room, places >> high.length, low, high);
}
