package io.reactivex.rxjava3.core;

import io.reactivex.rxjava3.functions.Consumer;
import io.reactivex.rxjava3.functions.Supplier;

public abstract class Single<T> {
    public static <T> Single<T> just(T item) { throw new UnsupportedOperationException(); }
    public static <T> Single<T> defer(Supplier<? extends Single<? extends T>> supplier) { throw new UnsupportedOperationException(); }
    public final Object subscribe(Consumer<? super T> onSuccess, Consumer<? super Throwable> onError) { throw new UnsupportedOperationException(); }
}
