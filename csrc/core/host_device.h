// One spelling of "callable on the CPU and on the GPU" for the arithmetic in this folder.
#pragma once

#ifdef __CUDACC__
#  define NIF_HD __host__ __device__ __forceinline__
#else
#  define NIF_HD inline
#endif
