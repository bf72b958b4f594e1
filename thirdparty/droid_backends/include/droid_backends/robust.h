// Robust losses rho(n) of a residual's length n, with the weight rho'(n)/(2 n) of iteratively reweighted least squares.
// rho(n) = n^2 near zero for all of them. Sources: Huber 1964; Geman and McClure 1985; Cauchy as in Zhang 1997, table 1.
#pragma once

#include <lietorch/se3.h>

#include <cmath>

namespace droid {

enum class Loss : int { kNone = 0, kHuber = 1, kGemanMcClure = 2, kCauchy = 3 };

struct RobustLoss {
  Loss kind = Loss::kNone;
  double width = 1.0;  // residual length at which the loss starts to bend

  LIE_HD double cost(double n) const {
    const double q = (n / width) * (n / width);
    switch (kind) {
      case Loss::kHuber:
        return n <= width ? n * n : 2.0 * width * n - width * width;
      case Loss::kGemanMcClure:
        return width * width * q / (1.0 + q);
      case Loss::kCauchy:
        return width * width * log1p(q);
      default:
        return n * n;
    }
  }

  LIE_HD double weight(double n) const {
    const double q = (n / width) * (n / width);
    switch (kind) {
      case Loss::kHuber:
        return n <= width ? 1.0 : width / n;
      case Loss::kGemanMcClure:
        return 1.0 / ((1.0 + q) * (1.0 + q));
      case Loss::kCauchy:
        return 1.0 / (1.0 + q);
      default:
        return 1.0;
    }
  }
};

}  // namespace droid
