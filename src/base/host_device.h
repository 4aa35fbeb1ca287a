// Functions that CPU and GPU code share.
#pragma once

#ifdef __CUDACC__
#define SWIATTN_HOST_DEVICE __host__ __device__
#else
#define SWIATTN_HOST_DEVICE
#endif
