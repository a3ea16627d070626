// What generated kernels are built from. STORED, REAL and GROUP_REAL are defined by the generated text: the type of
// an array's elements, of arithmetic on them, and of the group's values.
//
// The same text is compiled by NVRTC and, behind host.h, by a C++ compiler: it includes nothing and uses no
// intrinsics but where __CUDACC__ says so. Blocks have a power of two of threads, at most 1024.

typedef long long int64;
typedef REAL real;
typedef GROUP_REAL group_real;

// Halves are bits; they are widened at a load and rounded to nearest even at a store.
struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };
typedef STORED stored;

#ifdef __CUDACC__
__device__ __forceinline__ unsigned to_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float from_bits(unsigned x) { return __uint_as_float(x); }
#else
__device__ __forceinline__ unsigned to_bits(float x) { unsigned b; __builtin_memcpy(&b, &x, 4); return b; }
__device__ __forceinline__ float from_bits(unsigned b) { float x; __builtin_memcpy(&x, &b, 4); return x; }
#endif

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bfloat16 x) { return from_bits((unsigned)x.bits << 16); }
__device__ __forceinline__ float widen(float16 x) {
#ifdef __CUDACC__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    const unsigned sign = (unsigned)(x.bits & 0x8000) << 16, magnitude = (unsigned)(x.bits & 0x7fff) << 13;
    const float scaled = from_bits(magnitude) * from_bits(0x77800000);  // times 2**112; right for denormals too
    return from_bits((magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : to_bits(scaled)) | sign);
#endif
}

__device__ __forceinline__ void narrow(double x, double &to) { to = x; }
__device__ __forceinline__ void narrow(float x, float &to) { to = x; }
__device__ __forceinline__ void narrow(float x, bfloat16 &to) {
    const unsigned b = to_bits(x);
    to.bits = x != x ? 0x7fc0 | (b >> 16 & 0x8000) : (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
__device__ __forceinline__ void narrow(float x, float16 &to) {
#ifdef __CUDACC__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
    const unsigned b = to_bits(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    const unsigned normal = (a + 0xc8000fff + (a >> 13 & 1)) >> 13;
    const unsigned small = to_bits(from_bits(a) + 0.5f) - 0x3f000000;  // the sum is rounded at 2**-24
    const unsigned finite = a < 0x477ff000 ? (a < 0x38800000 ? small : normal) : 0x7c00;
    to.bits = (x != x ? 0x7e00 : finite) | sign;
#endif
}

// What an array of the parameter's dtype holds of a number, and the other dtypes that a state may be kept in.
__device__ __forceinline__ real held(real x) { stored kept; narrow(x, kept); return widen(kept); }
__device__ __forceinline__ void narrow(float x, double &to) { to = x; }
__device__ __forceinline__ void narrow(double x, float &to) { to = (float)x; }
__device__ __forceinline__ void narrow(double x, bfloat16 &to) { narrow((float)x, to); }
__device__ __forceinline__ void narrow(double x, float16 &to) { narrow((float)x, to); }

// Functions that C has not, or has otherwise. NaN goes through all of them.
__device__ __forceinline__ real infinity() { return (real)from_bits(0x7f800000); }
__device__ __forceinline__ real not_a_number() { return (real)from_bits(0x7fc00000); }
template <class T> __device__ __forceinline__ bool is_nan(T x) { return x != x; }
template <class T> __device__ __forceinline__ bool is_finite(T x) { return x - x == 0; }
template <class T> __device__ __forceinline__ T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x - x; }
template <class T> __device__ __forceinline__ T maximum(T x, T y) { return x >= y || x != x ? x : y; }
template <class T> __device__ __forceinline__ T minimum(T x, T y) { return x <= y || x != x ? x : y; }

// The exponents that most rules with one have by default, a tenth of the work. All threads go the same way.
__device__ __forceinline__ double power(double x, double y) { return pow(x, y); }
__device__ __forceinline__ float power(float x, float y) {
    if (y == 1.0f) return x;
    if (y == 0.5f) return sqrt(x == 0.0f || x == -(float)infinity() ? fabs(x) : x);
    return pow(x, y);
}

// As many neighbours as fit 16 bytes of the parameter are loaded, computed and stored together; those of an array of
// another dtype fill a part of 16 bytes, or several times 16.
constexpr int LANES = 16 / sizeof(stored);
template <int BYTES> struct Word { typedef uint4 type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<4> { typedef unsigned type; };
template <> struct Word<2> { typedef unsigned short type; };
template <class T> union Pack {
    typedef typename Word<sizeof(T) * LANES>::type word;
    static constexpr int WORDS = sizeof(T) * LANES / sizeof(word);
    word words[WORDS];
    T lane[LANES];
};

template <class T = stored> __device__ __forceinline__ T *array_at(int64 address) { return (T *)address; }

__device__ __forceinline__ int lanes_left(int64 left) { return left < LANES ? (int)left : LANES; }

template <class T> __device__ __forceinline__ void load(real (&to)[LANES], const T *from, int n, bool wide) {
    if (wide && n == LANES) {
        Pack<T> pack;
        const typename Pack<T>::word *words = (const typename Pack<T>::word *)from;
#pragma unroll
        for (int k = 0; k < Pack<T>::WORDS; ++k) pack.words[k] = __ldcg(words + k);  // past L1: nothing is read twice
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) to[lane] = real(widen(pack.lane[lane]));
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) to[lane] = lane < n ? real(widen(from[lane])) : real(0);
    }
}

template <class T> __device__ __forceinline__ void store(T *to, const real (&from)[LANES], int n, bool wide) {
    if (wide && n == LANES) {
        Pack<T> pack;
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) narrow(from[lane], pack.lane[lane]);
        typename Pack<T>::word *words = (typename Pack<T>::word *)to;
#pragma unroll
        for (int k = 0; k < Pack<T>::WORDS; ++k) __stcg(words + k, pack.words[k]);
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) if (lane < n) narrow(from[lane], to[lane]);
    }
}

// Stochastic rounding: the noise of isostep.rounding, and float32 rounded by it to what the half can hold.
__device__ __forceinline__ unsigned mix(unsigned x) {
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return x ^ x >> 16;
}
__device__ __forceinline__ unsigned key_of(double seed, double step, int64 parameter) {
    return mix(mix(mix((unsigned)(int64)seed) + (unsigned)(int64)step) + (unsigned)parameter);
}
__device__ __forceinline__ unsigned hash_of(unsigned key, int64 i) { return mix((unsigned)i + key); }
__device__ __forceinline__ unsigned noise_of(unsigned hashed, unsigned key, unsigned pair, int64 i) {
    return mix(hashed + mix(key + pair) + (unsigned)(i >> 32));
}
__device__ __forceinline__ float rounded_bfloat16(float x, unsigned noise) {
    return fabs(x) <= 3.3895313892515355e38f ? from_bits((to_bits(x) + (noise & 0xffff)) & 0xffff0000) : x;
}
__device__ __forceinline__ float rounded_float16(float x, unsigned noise) {
    noise &= 0x1fff;
    const unsigned bits = to_bits(x);
    if (!(fabs(x) <= 65504.0f)) return x;
    if (fabs(x) >= 0.00006103515625f) return from_bits((bits + noise) & 0xffffe000);
    const float units = fabs(x) * 16777216.0f, whole = floor(units);  // of 2**-24, the spacing here
    const bool up = (unsigned)((units - whole) * 8192.0f) > 0x1fff - noise;
    return from_bits(to_bits((whole + (up ? 1.0f : 0.0f)) * 5.9604644775390625e-08f) | (bits & 0x80000000));
}

// State in blocks of eight bits; what is done is isostep.blocks's, see there. A block is 32 neighbours, the lanes of a few
// threads that are neighbours; `scales` has a byte for each block of the array.
struct mxfp8_e4m3 {
    static constexpr unsigned MANTISSA = 3, BIAS = 7, TOP = 8, INFINITE = 0x7f;
    unsigned char bits;
};
struct mxfp8_e5m2 {
    static constexpr unsigned MANTISSA = 2, BIAS = 15, TOP = 15, INFINITE = 0x7c;
    unsigned char bits;
};

// The bits of a number's size, which have the order of the numbers; 0 for what is not finite.
__device__ __forceinline__ unsigned size_of(float x) {
    const unsigned size = to_bits(x) & 0x7fffffff;
    return size < 0x7f800000 ? size : 0;
}

// The largest of x over the threads that share a block. All threads of a warp must come here.
__device__ __forceinline__ unsigned largest_of_block(unsigned x) {
#pragma unroll
    for (int apart = 1; apart < 32 / LANES; apart *= 2) {
        const unsigned other = __shfl_xor_sync(0xffffffff, x, apart);
        x = x > other ? x : other;
    }
    return x;
}

template <class T> __device__ __forceinline__ unsigned scale_of(unsigned largest) {
    constexpr unsigned least = T::BIAS + T::MANTISSA + T::TOP;
    const unsigned place = (largest >> 23) + ((largest & 0x7fffff) > 0x600000);
    return (place > least ? place : least) - T::TOP;
}

// A float of a byte is the upper part of a float32 of the same exponent, smaller by a power of two; below the normal
// numbers too, where the product rounds as isostep.blocks does.
template <class T> __device__ __forceinline__ T packed(float x, float back, unsigned noise) {
    const unsigned bits = to_bits(x), size = bits & 0x7fffffff;
    const float y = fabs(x) * back, smaller = from_bits(T::BIAS << 23);
    unsigned code = (to_bits(y * smaller) + ((noise & 0xffff) << (7 - T::MANTISSA))) >> (23 - T::MANTISSA);
    code = code < T::INFINITE ? code : T::INFINITE;
    if (T::INFINITE < 0x7f) code = size > 0x7f800000 ? 0x7f : code;
    const unsigned least = size < 1 ? size : 1;  // what is not zero stays so
    code = code > least ? code : least;
    return T{(unsigned char)(code | (bits >> 24 & 0x80))};
}

__device__ __forceinline__ float unpacked(mxfp8_e5m2 kept, float power) {  // the upper half of a float16
    return widen(float16{(unsigned short)(kept.bits << 8)}) * power;
}
__device__ __forceinline__ float unpacked(mxfp8_e4m3 kept, float power) {
    const unsigned bits = kept.bits, size = bits & 0x7f;
    const float x = from_bits(size << 20 | (bits & 0x80) << 24) * from_bits(0x7b800000);  // times 2**120
    return (size == 0x7f ? from_bits(0x7fc00000) : x) * power;
}

// Lanes at element i of an array, `from` being where they lie.
template <class T> __device__ __forceinline__ void load(
    real (&to)[LANES], const T *from, const unsigned char *scales, int64 i, int n, bool wide
) {
    const float power = n > 0 ? from_bits((unsigned)scales[i >> 5] << 23) : 0.0f;
    Pack<T> pack;
    if (wide && n == LANES) {
        pack.words[0] = __ldcg((const typename Pack<T>::word *)from);
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) pack.lane[lane] = lane < n ? from[lane] : T{0};
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) to[lane] = real(unpacked(pack.lane[lane], power));
}

// Each lane's noise is shifted down so far. All threads of a warp must come here, of which those beyond the array's end
// have no lanes.
template <class T> __device__ __forceinline__ void store(
    T *to, unsigned char *scales, const real (&from)[LANES], const unsigned (&noise)[LANES], int shift, int64 i, int n,
    bool wide
) {
    unsigned largest = 0;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        const unsigned size = lane < n ? size_of((float)from[lane]) : 0;
        largest = largest > size ? largest : size;
    }
    const unsigned scale = scale_of<T>(largest_of_block(largest));
    const float back = from_bits((254 - scale) << 23);
    __syncwarp();  // all have read the old one
    if (n > 0 && i % 32 == 0) scales[i >> 5] = scale;
    Pack<T> pack;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) pack.lane[lane] = packed<T>((float)from[lane], back, noise[lane] >> shift);
    if (wide && n == LANES) {
        __stcg((typename Pack<T>::word *)to, pack.words[0]);
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) if (lane < n) to[lane] = pack.lane[lane];
    }
}

// Division of what is not negative; in 32 bits where both fit, which is several times as fast.
__device__ __forceinline__ int64 quotient(int64 x, int64 y) {
    return (x | y) >> 32 ? x / y : (int64)((unsigned)x / (unsigned)y);
}

// The unit of element i of an array, and where element r of unit u is.
__device__ __forceinline__ int64 unit_of(int64 i, int64 inner, int64 units) {
    const int64 run = quotient(i, inner);
    return run - quotient(run, units) * units;
}
__device__ __forceinline__ int64 element_of(int64 r, int64 u, int64 inner, int64 units) {
    const int64 run = quotient(r, inner);
    return (run * units + u) * inner + (r - run * inner);
}

// The sum of x over threads lane = 0, 1, ... of `lanes` (a power of two), which stand `stride` apart, by halving: an
// order that depends on nothing else. All threads of the block must come here; all `lanes` threads get the sum.
__device__ inline double sum_of_lanes(double x, int lane, int lanes, int stride) {
    __shared__ double part[1024];
    const int thread = threadIdx.x;
    part[thread] = x;
    __syncthreads();
    for (int half = lanes / 2; half > 0; half /= 2) {
        if (lane < half) part[thread] += part[thread + half * stride];
        __syncthreads();
    }
    const double sum = part[thread - lane * stride];
    __syncthreads();
    return sum;
}

__device__ inline double sum_of_block(double x) { return sum_of_lanes(x, threadIdx.x, blockDim.x, 1); }

// How a block shares units of an array among its threads: `lanes` threads for each of `slots` units at a time.
struct Share { int lanes, slots, lane, slot, stride; };
__device__ inline Share share_units(int64 inner, int64 units, int64 length) {
    const int threads = blockDim.x, thread = threadIdx.x;
    if (inner > 1) {  // a unit's neighbours are neighbours in memory: threads run along the unit
        int lanes = 1;
        while (lanes < threads && 4 * lanes < length) lanes *= 2;
        return Share{lanes, threads / lanes, thread % lanes, thread / lanes, 1};
    }
    int slots = 1;  // neighbours in memory are of different units: threads run across units
    while (slots < threads && slots < 32 && slots < units) slots *= 2;
    return Share{threads / slots, slots, thread / slots, thread % slots, slots};
}

// Sums over arrays and over the group from sums over rows; block `arrays` makes those over the group.
extern "C" __global__ void reduce(
    const double *partials, const int64 *spans, double *sums, double *totals, int64 arrays, int64 width, int64 columns
) {
    const bool all = blockIdx.x == arrays;
    const int64 start = spans[all ? 0 : blockIdx.x], stop = spans[all ? arrays : blockIdx.x + 1];
    double *const to = all ? totals : sums + blockIdx.x * width;
    for (int64 column = 0; column < columns; ++column) {
        double sum = 0;
#pragma unroll 8  // the loads of so many rows are under way together: 100M elements are 25,600 rows for one block
        for (int64 row = start + threadIdx.x; row < stop; row += blockDim.x) sum += partials[row * width + column];
        sum = sum_of_block(sum);
        if (threadIdx.x == 0) to[column] = sum;
    }
}

// The group's new values go where its state is.
extern "C" __global__ void commit(const int64 *group, const double *group_new, int64 values) {
    for (int64 k = threadIdx.x; k < values; k += blockDim.x) *(group_real *)group[k] = (group_real)group_new[k];
}
