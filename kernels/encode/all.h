// SPDX-License-Identifier: Apache-2.0
// Every encoder of encoders.def: overloads of
//   encode_block(const float* weights, const float* importance, Layout<id>::Block& out)
// for one block; importance is null or has a value per weight.
#pragma once

#include "kernels/encode/iq1_m.h"
#include "kernels/encode/iq1_s.h"
#include "kernels/encode/iq2_s.h"
#include "kernels/encode/iq2_xs.h"
#include "kernels/encode/iq2_xxs.h"
#include "kernels/encode/iq3_s.h"
#include "kernels/encode/iq3_xxs.h"
#include "kernels/encode/iq4_nl.h"
#include "kernels/encode/iq4_xs.h"
#include "kernels/encode/mxfp4.h"
#include "kernels/encode/q2_k.h"
#include "kernels/encode/q3_k.h"
#include "kernels/encode/q4_0.h"
#include "kernels/encode/q4_1.h"
#include "kernels/encode/q4_k.h"
#include "kernels/encode/q5_0.h"
#include "kernels/encode/q5_1.h"
#include "kernels/encode/q5_k.h"
#include "kernels/encode/q6_k.h"
#include "kernels/encode/q8_0.h"
