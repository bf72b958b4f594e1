// Robust losses rho(n) of a residual's length n, with the weight rho'(n)/(2 n) of iteratively reweighted least squares.
// rho(n) = n^2 near zero for all of them. Sources: Huber 1964; Geman and McClure 1985; Cauchy as in Zhang 1997,
// table 1.
#pragma once

#include <droid_backends/lanes.h>

namespace droid {

enum class Loss : int { kNone = 0, kHuber = 1, kGemanMcClure = 2, kCauchy = 3 };

struct RobustLoss {
  Loss kind = Loss::kNone;
  double width = 1.0;  // residual length at which the loss starts to bend

  LIE_HD double cost(double n) const { return cost_of_square(n * n); }
  LIE_HD double weight(double n) const { return weight_of_square(n * n); }

  // The same of n^2, which spares most losses a square root.
  template <typename S>
  LIE_HD S cost_of_square(const S& n2) const {
    const double width2 = width * width;
    const S one = S() + 1.0, q = n2 * (1.0 / width2);
    switch (kind) {
      case Loss::kHuber:
        return select(n2 <= width2, n2, 2.0 * width * square_root(n2) - width2);
      case Loss::kGemanMcClure:
        return n2 * (one / (one + q));
      case Loss::kCauchy:
        return width2 * log_one_plus(q);
      default:
        return n2;
    }
  }

  template <typename S>
  LIE_HD S weight_of_square(const S& n2) const {
    const double width2 = width * width;
    const S one = S() + 1.0, q = n2 * (1.0 / width2), bend = one / (one + q);
    switch (kind) {
      case Loss::kHuber:
        return select(n2 <= width2, one, width / square_root(n2));
      case Loss::kGemanMcClure:
        return bend * bend;
      case Loss::kCauchy:
        return bend;
      default:
        return one;
    }
  }
};

}  // namespace droid
