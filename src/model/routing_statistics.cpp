#include "model/routing_statistics.h"

#include <algorithm>
#include <cmath>

namespace swiattn {

double standard_deviation(double mean, double mean_of_squares) {
  const double variance = mean_of_squares - mean * mean;
  return std::isnan(variance) ? variance : std::sqrt(std::max(0.0, variance));
}

}  // namespace swiattn
