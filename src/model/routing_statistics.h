// Reading the sums that describe what the routers of a model did (ops/routing_columns.h).
#pragma once

#include "ops/routing_columns.h"

namespace swiattn {

// The standard deviation of values with these means; NaN when one of them is.
double standard_deviation(double mean, double mean_of_squares);

}  // namespace swiattn
